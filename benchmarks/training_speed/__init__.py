"""What it saves to hand the frozen output layer its input in one piece."""
