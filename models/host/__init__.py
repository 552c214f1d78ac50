"""What the host does with the accelerator's outputs: its part of a file, and boxes of a YOLO."""
