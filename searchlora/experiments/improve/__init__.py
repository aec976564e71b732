"""The verb `improve`: rejection-sampling fine-tuning on the task's own reward."""
