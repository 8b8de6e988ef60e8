"""Paint by Example's training: from images with boxes, a UNet learns to paint an exemplar into a hole."""
