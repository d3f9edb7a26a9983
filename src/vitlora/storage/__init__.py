"""What stages hand to one another: packed originals, uint8 squares, labels, manifests."""
