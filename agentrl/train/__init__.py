"""The bridge to verl: one configuration, one driver process, our episode loop as verl's agent loop."""
