"""The hosts of the cores: pyzmq sockets, real time, files."""
