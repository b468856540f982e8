"""What the guardian's process runs: ``guardian_main.py <base folder> <open file of guardian.lock>``.

Not imported by anything. It runs without the site module, so no .pth file, no coverage measurement and no start-up
code of the user's runs in it; until its time has come it imports next to nothing (a third of the memory).
"""

import fcntl
import os
import sys

if __name__ == "__main__":
    base = sys.argv[1]
    # The first process ends at once, so that the guardian is no child of the program that started it. The second one
    # inherits guardian.lock, which it keeps until it ends.
    if os.fork():
        os._exit(0)
    users = os.open(os.path.join(base, "users.lock"), os.O_RDWR)
    # Granted when the last user is gone. New users wait from here on, until this process has ended.
    fcntl.flock(users, fcntl.LOCK_EX)

    sys.path[:] = os.environ["PYTHONPATH"].split(os.pathsep)
    from tasker.database.embedded.guardian import last_user_gone

    last_user_gone(base)
