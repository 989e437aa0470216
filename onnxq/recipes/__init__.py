"""The recipes that come with onnxq, as TOML files."""
