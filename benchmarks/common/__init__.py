"""What several scripts share: how time is taken, whose models stand beside ours, how results are written."""
