"""Files that ship with onnxq: the model that ``onnxq demo`` compiles."""
