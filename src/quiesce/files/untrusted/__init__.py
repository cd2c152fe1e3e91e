"""Files from strangers: never run, never followed elsewhere, read within limits.

Each module knows one kind of file and raises ValueError with the reason alone; whoever reads puts
the file's name in front of it and says what then. `versions` alone has a whole sentence. Nothing
here imports torch. What is promised, and which test holds it: docs/reliability.md.
"""
