"""Dead letters, and their way back to the requests topic.

dead_letters  reads the dead letters, and redrives selected ones
published     finds the result that was published with a dead letter
redriver      writes redriven requests and their marks, some in one transaction
"""
