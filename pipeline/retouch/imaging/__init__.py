"""Images as uint8 arrays: decoding, masks, regions, faces, compositing."""
