"""Starting and following tasks from any Python program; ``from tasker import Tasker``."""
