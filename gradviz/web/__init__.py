"""The live element: bytes from the server (wire), the routes that serve them (routes), and what draws them (live.js, element)."""
