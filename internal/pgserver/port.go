package pgserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Loopback is the address that clusters listen on.
const Loopback = "127.0.0.1"

// Ports are taken from below the ranges that Linux (32768 up) and macOS (49152
// up) give to outgoing connections: a port in those may be taken by any client
// between two starts of the same server.
const (
	firstPort = 15000
	lastPort  = 32000
)

// Port is a TCP port of the loopback interface that belongs to its holder while
// a server there is stopped and started. Its UDP twin stays bound as the sign
// for every other process that reserves ports this way; the operating system
// takes the sign away when the process ends.
type Port struct {
	Number int
	sign   *net.UDPConn
}

// ReservePort reserves a free port, chosen at random.
func ReservePort() (*Port, error) {
	for range 500 {
		p, err := reserve(firstPort + rand.IntN(lastPort-firstPort))
		if err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no free port on %s between %d and %d", Loopback, firstPort, lastPort)
}

var errPortTaken = errors.New("port is taken")

func reserve(number int) (*Port, error) {
	sign, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(Loopback), Port: number})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPortTaken, err)
	}
	p := &Port{Number: number, sign: sign}
	if !p.free() {
		p.Release()
		return nil, errPortTaken
	}
	return p, nil
}

// free reports whether nothing listens on the TCP port now.
func (p *Port) free() bool {
	listener, err := net.Listen("tcp4", p.Addr())
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// Addr returns host:port.
func (p *Port) Addr() string { return net.JoinHostPort(Loopback, strconv.Itoa(p.Number)) }

// Release gives the port back. It may be called more than once.
func (p *Port) Release() {
	p.sign.Close() //nolint:errcheck // a second closing fails, and may
}
