"""LiDAR scans: sensors, range images, points."""
