"""What training in several processes needs: agreement, split weights, batch norm over all of them."""
