"""What organisers, participants and researchers share: tasks, landmarks, images, datasets and the platform's I/O."""

__version__ = "0.1.0"
