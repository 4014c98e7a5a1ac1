"""How an update travels: dense or quantized, with an honest count of bytes."""
