"""What looks into the data of a connection: pure parsers, bytes in, values out."""
