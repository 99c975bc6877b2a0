"""What a person sees of a run: the live terminal view, plain lines, the summary and the learning curve."""
