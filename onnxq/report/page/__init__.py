"""The page: one HTML file that shows graphs, tables and charts without a network."""
