"""LiDAR scans as range images: sensor description, projection, measurement of a sensor."""
