def save(csv, page): pass
