"""What more than one head is made of: ROI heads, ground truth in boxes, a backbone, finite numbers."""
