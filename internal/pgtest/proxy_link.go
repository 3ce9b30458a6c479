package pgtest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// Codes in the first message of a connection, in place of a protocol version.
// https://www.postgresql.org/docs/current/protocol-message-formats.html
const (
	cancelRequestCode    = 80877102
	sslRequestCode       = 80877103
	gssEncryptionRequest = 80877104
)

// maxMessage is the most that PostgreSQL sends in one message.
const maxMessage = 1 << 30

// link is one connection through a proxy.
type link struct {
	proxy      *Proxy
	number     int               // these three under the proxy's lock
	parameters map[string]string // of the startup message
	key        string            // of cancel requests: process id and secret
	client     net.Conn
	server     *net.TCPConn
	fromClient *bufio.Reader
	fromServer *bufio.Reader

	muted      atomic.Bool  // nothing more goes to the client
	unanswered atomic.Int32 // ReadyForQuery messages that the server owes
	closing    sync.Once
	done       chan struct{}
}

// close drops both sides.
func (l *link) close() {
	l.closing.Do(func() {
		close(l.done)
		l.client.Close()
		l.server.Close()
	})
}

// frontend passes the client's messages on until the client or a cut ends it.
func (l *link) frontend() {
	if !l.startup() {
		return
	}
	for {
		message, frame, err := readMessage(l.fromClient)
		if err != nil {
			if !l.muted.Load() && l.proxy.pass(l) {
				l.endRequests() // the client is gone: so it shall look to the server
			}
			return
		}
		if !l.proxy.pass(l) {
			return
		}
		switch l.proxy.decide(l, message, frame[5:]) {
		case CutBefore:
			l.close()
			return
		case CutAfter:
			l.cutAfter(message, frame)
			return
		}
		if !l.forward(message, frame) {
			return
		}
	}
}

// endRequests tells the server that nothing more comes, and still reads what it
// has to say.
func (l *link) endRequests() {
	l.server.CloseWrite() //nolint:errcheck // fails where the server has ended, which backend sees
}

// forward writes a message to the server.
func (l *link) forward(message byte, frame []byte) bool {
	if answered(message) {
		l.unanswered.Add(1)
	}
	if _, err := l.server.Write(frame); err != nil {
		l.close()
		return false
	}
	return true
}

// answered reports whether the server ends its answer to the message with a
// ReadyForQuery: Query, Sync and FunctionCall.
func answered(message byte) bool { return message == 'Q' || message == 'S' || message == 'F' }

// cutAfter forwards a last message, of whose answer the client sees nothing.
func (l *link) cutAfter(message byte, frame []byte) {
	l.muted.Store(true) // first: the answer may be fast
	if !l.forward(message, frame) {
		return
	}
	l.client.Close()
	// A COPY's Query still waits for its ReadyForQuery, which CopyDone and
	// CopyFail bring.
	if !answered(message) && message != 'c' && message != 'f' || l.unanswered.Load() <= 0 {
		l.endRequests()
	}
}

// backend passes the server's messages on until the server ends.
func (l *link) backend() {
	defer l.close()
	for {
		message, frame, err := readMessage(l.fromServer)
		if err != nil {
			l.proxy.pass(l) // in a stall the end shall not show either
			return
		}
		left := l.unanswered.Load()
		switch message {
		case 'K':
			l.proxy.setKey(l, frame[5:])
		case 'Z':
			left = l.unanswered.Add(-1)
		}
		if l.muted.Load() {
			if message == 'Z' && left <= 0 {
				l.endRequests()
			}
			continue
		}
		if !l.proxy.pass(l) {
			return
		}
		if l.muted.Load() { // cut while the message was held back
			continue
		}
		if _, err := l.client.Write(frame); err != nil && !l.muted.Load() {
			return
		}
	}
}

// startup passes on what comes before the first typed message. False means
// that there will be none.
func (l *link) startup() bool {
	for {
		frame, err := readFrame(l.fromClient, nil)
		if err != nil || len(frame) < 8 || !l.proxy.pass(l) {
			l.close()
			return false
		}
		code := binary.BigEndian.Uint32(frame[4:])
		if code == sslRequestCode || code == gssEncryptionRequest {
			if _, err := l.client.Write([]byte{'N'}); err != nil {
				l.close()
				return false
			}
			continue
		}
		if code == cancelRequestCode && l.proxy.lost(frame[8:]) {
			l.close()
			return false
		}
		if code != cancelRequestCode {
			l.proxy.started(l, parseParameters(frame[8:]))
		}
		if _, err := l.server.Write(frame); err != nil {
			l.close()
			return false
		}
		return code != cancelRequestCode
	}
}

// parseParameters reads the pairs of a startup message.
func parseParameters(text []byte) map[string]string {
	fields := strings.Split(string(text), "\x00")
	parameters := map[string]string{}
	for i := 0; i+1 < len(fields) && fields[i] != ""; i += 2 {
		parameters[fields[i]] = fields[i+1]
	}
	return parameters
}

// readMessage reads one typed message; frame is all of it, type included.
func readMessage(from *bufio.Reader) (message byte, frame []byte, err error) {
	message, err = from.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	frame, err = readFrame(from, []byte{message})
	return message, frame, err
}

// readFrame reads a length, which counts itself, and what it spans, and returns
// both behind head.
func readFrame(from io.Reader, head []byte) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size < 4 || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	frame := make([]byte, len(head)+int(size))
	copy(frame, head)
	copy(frame[len(head):], length[:])
	_, err := io.ReadFull(from, frame[len(head)+4:])
	return frame, err
}
