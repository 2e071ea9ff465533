"""What leaves the node beside SEG and SR, for viewers that show neither."""
