"""What somebody takes away to show it elsewhere: one file, a page that draws by itself, without a server and a network."""
