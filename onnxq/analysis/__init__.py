"""What a graph means: layers, channels, attention; nothing here changes one."""
