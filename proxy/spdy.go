package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/moby/spdystream/spdy"
	corev1 "k8s.io/api/core/v1"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// maxStreams bounds the streams of one connection. A remote command has five.
const maxStreams = 64

// spdyTunnel reads the frames of both sides (SPDY/3.1): the client's opening of
// a stream says what it carries, and what the API server sends on stdout,
// stderr and the error stream is masked.
type spdyTunnel struct {
	*tunnel
	scoped *mask.Scoped
	framer *spdy.Framer // to the client; t.mu
	tape   *tape
	input  *input

	streams sync.Mutex
	carries map[spdy.StreamId]string
	outputs map[spdy.StreamId]*output
}

// spdyLimits bound what headers may take.
var spdyLimits = []spdy.FramerOption{
	spdy.WithMaxControlFramePayloadSize(64 << 10), spdy.WithMaxHeaderFieldSize(16 << 10), spdy.WithMaxHeaderCount(64),
}

func newSPDYTunnel(ctx context.Context, conn io.ReadWriteCloser, scoped *mask.Scoped, u *upgrade) (*spdyTunnel, error) {
	s := &spdyTunnel{
		tunnel: newTunnel(ctx, conn, u), scoped: scoped, tape: u.tape, input: newInput(u.tape, scoped),
		carries: map[spdy.StreamId]string{}, outputs: map[spdy.StreamId]*output{},
	}
	var err error
	if s.framer, err = spdy.NewFramerWithOptions(s.to, nil); err != nil {
		return nil, err
	}
	s.run(func(r io.Reader) error {
		return errors.Join(s.fromClient(r), s.input.end())
	}, func() error {
		err := s.fromServer()
		return errors.Join(s.end(), err)
	}, s.last)
	return s, nil
}

// last ends the session with why on the error stream.
func (s *spdyTunnel) last(why []byte) error {
	s.streams.Lock()
	id := spdy.StreamId(0)
	for stream, what := range s.carries {
		if what == corev1.StreamTypeError {
			id = stream
		}
	}
	s.streams.Unlock()
	if id == 0 {
		return nil
	}
	return s.frame(&spdy.DataFrame{StreamId: id, Flags: spdy.DataFlagFin, Data: why})
}

// nextFrame reads a frame whose length has been looked at first.
func nextFrame(f *spdy.Framer, r *bufio.Reader) (spdy.Frame, error) {
	head, err := r.Peek(8)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(head[4:])&0xffffff > maxFrameBytes {
		return nil, errFrame
	}
	return f.ReadFrame()
}

// fromClient passes the client's frames on and learns what each stream carries.
func (s *spdyTunnel) fromClient(r io.Reader) error {
	br := bufio.NewReaderSize(r, bufferBytes)
	f, err := spdy.NewFramerWithOptions(writerFunc(func(b []byte) error {
		s.pass(b)
		return nil
	}), br, spdyLimits...)
	if err != nil {
		return err
	}
	for {
		frame, err := nextFrame(f, br)
		if err != nil {
			return err
		}
		if syn, ok := frame.(*spdy.SynStreamFrame); ok {
			s.streams.Lock()
			n := len(s.carries)
			_, twice := s.carries[syn.StreamId]
			if !twice {
				s.carries[syn.StreamId] = syn.Headers.Get(corev1.StreamType)
			}
			s.streams.Unlock()
			if twice {
				// The API server refuses the second and goes on with the first.
				return errors.New("the client opened a stream twice")
			}
			if n >= maxStreams {
				return errors.New("the client opened too many streams")
			}
		}
		if data, ok := frame.(*spdy.DataFrame); ok {
			if err := s.sent(data); err != nil {
				return err
			}
		}
		// A ping of the client's has an odd id (2.6.5); others answer the API server's.
		if ping, ok := frame.(*spdy.PingFrame); ok && ping.Id%2 == 1 && !s.pinged(func() error { return s.frame(ping) }) {
			continue
		}
		if err := f.WriteFrame(frame); err != nil {
			return err
		}
	}
}

// what says what a stream carries.
func (s *spdyTunnel) what(id spdy.StreamId) string {
	s.streams.Lock()
	defer s.streams.Unlock()
	return s.carries[id]
}

// tell sends a Status of the proxy's where the error stream ends without one.
func (s *spdyTunnel) tell(id spdy.StreamId) error {
	if s.what(id) != corev1.StreamTypeError {
		return nil
	}
	status := s.untold()
	if status == nil {
		return nil
	}
	return s.frame(&spdy.DataFrame{StreamId: id, Data: status})
}

// sent records what the client sends on a stream.
func (s *spdyTunnel) sent(frame *spdy.DataFrame) error {
	switch s.what(frame.StreamId) {
	case corev1.StreamTypeStdin:
		return s.input.stdin(frame.Data)
	case corev1.StreamTypeResize:
		return s.input.resize(frame.Data)
	}
	return nil
}

func (s *spdyTunnel) fromServer() error {
	br := bufio.NewReaderSize(s.received(), bufferBytes)
	in, err := spdy.NewFramerWithOptions(nil, br, spdyLimits...)
	if err != nil {
		return err
	}
	for {
		frame, err := nextFrame(in, br)
		if err != nil {
			return err
		}
		data, ok := frame.(*spdy.DataFrame)
		if !ok {
			if end := ended(frame); end != 0 {
				var o *output
				if o, err = s.output(end); err == nil {
					err = o.drain()
				}
				if err == nil {
					err = s.tell(end)
				}
			} else if _, away := frame.(*spdy.GoAwayFrame); away {
				err = s.end()
			}
			if err == nil {
				err = s.frame(frame)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := s.data(data); err != nil {
			return err
		}
	}
}

// ended gives the stream that a frame other than data ends, or 0.
func ended(frame spdy.Frame) spdy.StreamId {
	switch f := frame.(type) {
	case *spdy.RstStreamFrame:
		return f.StreamId
	case *spdy.SynReplyFrame:
		if f.CFHeader.Flags&spdy.ControlFlagFin != 0 {
			return f.StreamId
		}
	case *spdy.HeadersFrame:
		if f.CFHeader.Flags&spdy.ControlFlagFin != 0 {
			return f.StreamId
		}
	}
	return 0
}

// data takes one frame of a stream's bytes.
func (s *spdyTunnel) data(frame *spdy.DataFrame) error {
	o, err := s.output(frame.StreamId)
	if err != nil {
		return err
	}
	if err := o.write(frame.Data); err != nil {
		return err
	}
	if len(frame.Data) > 0 && s.what(frame.StreamId) == corev1.StreamTypeError {
		s.told = true
	}
	if frame.Flags&spdy.DataFlagFin == 0 {
		return nil
	}
	if err := o.drain(); err != nil {
		return err
	}
	if err := s.tell(frame.StreamId); err != nil {
		return err
	}
	return s.frame(&spdy.DataFrame{StreamId: frame.StreamId, Flags: frame.Flags})
}

// output gives the output that a stream of the API server's bytes is. All of them
// are masked, whatever the client said that they carry.
func (s *spdyTunnel) output(id spdy.StreamId) (*output, error) {
	s.streams.Lock()
	defer s.streams.Unlock()
	o := s.outputs[id]
	if o == nil {
		if len(s.outputs) >= maxStreams {
			return nil, errors.New("the API server sends on too many streams")
		}
		stream := recording.Output
		switch s.carries[id] {
		case corev1.StreamTypeStderr:
			stream = recording.Errors
		case corev1.StreamTypeError:
			stream = recording.Status
		}
		o = newOutput(&s.mu, s.scoped, s.tape.kept(stream, s.unlessCut(func(data []byte) error {
			if len(data) == 0 {
				return nil
			}
			return s.framer.WriteFrame(&spdy.DataFrame{StreamId: id, Data: data})
		})))
		s.outputs[id] = o
	}
	return o, nil
}

// frame passes a frame on.
func (s *spdyTunnel) frame(frame spdy.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.framer.WriteFrame(frame)
}

// end passes on what any output holds back.
func (s *spdyTunnel) end() error {
	if cutOf(s.ctx) != nil {
		return nil
	}
	s.streams.Lock()
	var all []*output
	for _, o := range s.outputs {
		all = append(all, o)
	}
	s.streams.Unlock()
	var errs []error
	for _, o := range all {
		errs = append(errs, o.drain())
	}
	return errors.Join(errs...)
}
