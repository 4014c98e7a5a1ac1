"""How an update travels: dense or quantized, with an honest count of bytes."""

# Nothing is imported here. To a type checker at the root of the repository this folder stands in
# front of the standard library's `codecs`, on which builtins depend: an import of numpy from here
# makes a cycle in which it no longer understands numpy.
