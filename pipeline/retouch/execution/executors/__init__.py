"""What runs a plan: this process, or Ray. Each yields blocks as they are committed."""
