"""Paint by Example's training: images with boxes teach a UNet to paint an exemplar into a hole. Knows no cluster."""
