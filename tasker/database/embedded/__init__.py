"""A PostgreSQL of one's own: started by the first process that needs it, stopped with the last.

``EmbeddedServer`` (server.py) is the whole interface. Beneath it: ``directory`` says where things lie and who may
enter, ``locks`` who is there, ``installation`` which binaries run and as whom, ``postmaster`` starts, finds and
stops the server's processes, ``guardian`` stops it when its last user was killed.
"""

from tasker.database.embedded.directory import default_data_directory
from tasker.database.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer", "default_data_directory"]
