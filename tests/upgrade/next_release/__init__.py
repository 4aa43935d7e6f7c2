"""A plugin that stands for what the next release may do to tables while processes of the frozen one use them."""
