from __future__ import annotations

import socket

from journeyman.serve.sockets import listen


def test_pieces_of_a_stream_do_not_wait_for_each_other() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
