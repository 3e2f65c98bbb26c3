// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// read moves the client's bytes from the kernel to c.in. On the active server it stops
// while more is here than anybody asks for: the kernel's window then stops the client.
func (c *conn) read() {
	buf := make([]byte, 4<<10)
	for {
		c.mu.Lock()
		for c.gone == nil && c.active && c.in.unread() >= max(c.srv.cfg.ReadAhead, c.want) {
			c.cond.Wait()
		}
		if c.gone != nil {
			c.mu.Unlock()
			return
		}
		backup := !c.active
		c.mu.Unlock()

		n, err := c.sock.Read(buf)
		if n > 0 && backup {
			quickAck(c.sock)
		}
		c.mu.Lock()
		if c.gone != nil {
			c.mu.Unlock()
			return
		}
		offset, moving := c.in.received(), c.handover != nil
		c.in.append(buf[:n])
		c.heard = time.Now()
		if !c.active {
			c.in.pos = c.in.received()
		}
		c.in.overflow(c.in.pos)
		c.in.eof = c.in.eof || err == io.EOF
		received, eof := c.in.received(), c.in.eof
		backup = !c.active
		c.wake()
		c.mu.Unlock()

		if err != nil && err != io.EOF {
			c.drop(err, false)
			return
		}
		if moving {
			c.sendMissed(offset, buf[:n], err == io.EOF)
		}
		if backup && (n > 0 || eof) {
			c.srv.report(c, received, eof)
			c.srv.noteAcked(c)
		}
		if err != nil {
			return
		}
		if n == len(buf) && len(buf) < 64<<10 {
			buf = make([]byte, 4*len(buf))
		}
	}
}

// quickAck sends the acknowledgement that the kernel would delay: the active
// server's gate waits for it (tcp(7), TCP_QUICKACK; not sticky).
func quickAck(sock *net.TCPConn) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}

// write moves replies from c.out to the kernel, as far as they may be shown: on
// the active server what the backup has confirmed; on a backup what the client
// has acknowledged already, so that its kernel never waits for an
// acknowledgement that cannot come. It returns when there is nothing to write.
func (c *conn) write() {
	for {
		c.mu.Lock()
		if c.gone != nil {
			c.mu.Unlock()
			return
		}
		b := c.out.next(c.writable())
		if b == nil {
			c.writing = false
			closable := c.closable()
			c.mu.Unlock()
			if closable {
				c.close()
			}
			return
		}
		sock := c.sock
		c.mu.Unlock()

		sock.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout))
		n, err := sock.Write(b)

		c.mu.Lock()
		if c.gone == nil {
			c.out.wrote(n)
			c.srv.held.Add(-int64(n))
			c.cond.Broadcast()
		}
		c.mu.Unlock()
		if err != nil {
			// Who stopped reading is told.
			c.drop(err, errors.Is(err, os.ErrDeadlineExceeded))
			return
		}
	}
}
