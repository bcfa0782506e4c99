print("dedupdisk")
