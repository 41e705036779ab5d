"""Devices of other machines, by Ray Serve: a replica for each, which hosts the same worker process as this machine has.

Only ``application``, ``cluster``, ``lease``, ``replica`` and ``router`` import Ray, and only a server with the setting
``cluster`` imports them; a machine of the cluster does, where Ray Serve runs them.
"""
