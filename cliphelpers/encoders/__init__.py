"""Image encoders: CLIP, torchvision, timm or a module of one's own, told from a short text."""
