"""The router in front of several cells: sends each request to the cell that has what it names."""
