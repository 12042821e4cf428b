"""Dead letters, and their way back to the requests topic.

dead_letters  reads the dead letters, and redrives selected ones
redriver      writes redriven requests and their marks, some in one transaction
"""
