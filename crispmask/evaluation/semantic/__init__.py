"""Mean IoU of classes, and mean Boundary IoU."""
