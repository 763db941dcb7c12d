"""What a browser gets: bytes of a run (wire), the routes that serve them (routes, cards, download, scripts), who is answered
(guard, sockets, spoken, hosts, badge), and the elements of a page (panels, figure, motion) with what draws them (static)."""
