package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/gobwas/ws"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// The channels of the remote command protocol: the first byte of each message
// (apimachinery, util/remotecommand/constants.go).
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelError  = 3
	channelResize = 4
)

// recorded are the streams that channels to the client are.
var recorded = map[byte]recording.Stream{channelStdout: recording.Output, channelStderr: recording.Errors, channelError: recording.Status}

// webSocketTunnel reads the frames of both sides (RFC 6455 section 5). It masks
// what stdout, stderr and the error channel carry, and records what passes.
type webSocketTunnel struct {
	*tunnel
	outputs map[byte]*output
	input   *input
}

func newWebSocketTunnel(ctx context.Context, conn io.ReadWriteCloser, scoped *mask.Scoped, u *upgrade) *webSocketTunnel {
	w := &webSocketTunnel{tunnel: newTunnel(ctx, conn, u), outputs: map[byte]*output{}, input: newInput(u.tape, scoped)}
	for ch, stream := range recorded {
		w.outputs[ch] = newOutput(&w.mu, scoped, u.tape.kept(stream, w.unlessCut(func(data []byte) error { return w.message(ch, data) })))
	}
	w.run(func(r io.Reader) error {
		err := w.fromClient(bufio.NewReaderSize(r, bufferBytes))
		return errors.Join(w.input.end(), err)
	}, func() error {
		err := w.pump(bufio.NewReaderSize(w.received(), bufferBytes))
		return errors.Join(w.end(), err)
	}, w.last)
	return w
}

var (
	errClientWebSocket = errors.New("the client's WebSocket frames can't be read")
	// errFragments is of a message in several frames: for the API server each is a
	// message of its own, with its own channel (golang.org/x/net/websocket), for
	// RFC 6455 section 5.4 they are one. What is recorded must be what arrives.
	errFragments = apierrors.NewBadRequest("the client sent a WebSocket message in several frames, which the API server doesn't put together: the session was ended")
)

// fromClient passes the client's frames on as they are, and what they carry to
// the recording first. A frame of any length is passed in pieces.
func (w *webSocketTunnel) fromClient(r *bufio.Reader) error {
	var channel byte // of the message
	named := false   // its channel has been read
	var head bytes.Buffer
	buf := make([]byte, bufferBytes)
	plain := make([]byte, bufferBytes)
	for {
		h, err := ws.ReadHeader(r)
		if err != nil {
			return err
		}
		control := h.OpCode.IsControl()
		switch {
		case !h.Masked || h.Rsv != 0 || h.OpCode.IsReserved(),
			control && (!h.Fin || h.Length > ws.MaxControlFramePayloadSize):
			return errClientWebSocket
		case !h.Fin || h.OpCode == ws.OpContinuation:
			return errFragments
		}
		head.Reset()
		if err := ws.WriteHeader(&head, h); err != nil {
			return err
		}
		if control {
			if err := w.control(h, head.Bytes(), r); err != nil {
				return err
			}
			continue
		}
		named = false
		w.pass(head.Bytes())
		for at := int64(0); at < h.Length; {
			n, err := io.ReadFull(r, buf[:min(int64(len(buf)), h.Length-at)])
			if err != nil {
				return err
			}
			data := plain[:copy(plain, buf[:n])]
			ws.Cipher(data, h.Mask, int(at%4))
			if !named {
				channel, named, data = data[0], true, data[1:]
			}
			if err := w.sent(channel, data); err != nil {
				return err
			}
			w.pass(buf[:n])
			at += int64(n)
		}
	}
}

// control passes on a control frame of the client's, and what it carries.
func (w *webSocketTunnel) control(h ws.Header, head []byte, r io.Reader) error {
	frame := make([]byte, len(head)+int(h.Length))
	data := frame[copy(frame, head):]
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	switch h.OpCode {
	case ws.OpClose:
		w.silent.Store(true)
	case ws.OpPing:
		plain := bytes.Clone(data)
		ws.Cipher(plain, h.Mask, 0)
		if !w.pinged(func() error {
			return w.frame(ws.Header{Fin: true, OpCode: ws.OpPong, Length: h.Length}, plain)
		}) {
			return nil
		}
	}
	w.pass(frame)
	return nil
}

// sent records what the client sends on a channel.
func (w *webSocketTunnel) sent(channel byte, data []byte) error {
	switch channel {
	case channelStdin:
		return w.input.stdin(data)
	case channelResize:
		return w.input.resize(data)
	}
	return nil
}

// tell sends a Status of the proxy's on the error channel.
func (w *webSocketTunnel) tell(status []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.message(channelError, status)
}

// last ends the session with why on the error channel.
func (w *webSocketTunnel) last(why []byte) error {
	if err := w.tell(why); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return ws.WriteFrame(w.to, ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
}

// message sends data on a channel to the client. t.mu is held.
func (w *webSocketTunnel) message(ch byte, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if err := ws.WriteHeader(w.to, ws.Header{Fin: true, OpCode: ws.OpBinary, Length: int64(len(data) + 1)}); err != nil {
		return err
	}
	if _, err := w.to.Write([]byte{ch}); err != nil {
		return err
	}
	_, err := w.to.Write(data)
	return err
}

// end passes on what any output holds back.
func (w *webSocketTunnel) end() error {
	if cutOf(w.ctx) != nil {
		return nil
	}
	var errs []error
	for _, ch := range []byte{channelStdout, channelStderr, channelError} {
		errs = append(errs, w.outputs[ch].drain())
	}
	return errors.Join(errs...)
}

var errWebSocket = errors.New("the API server's WebSocket frames can't be read")

func (w *webSocketTunnel) pump(r io.Reader) error {
	var message []byte // of a message in several frames
	within := false
	for {
		h, err := ws.ReadHeader(r)
		if err != nil {
			return err
		}
		if h.Masked || h.Rsv != 0 || h.OpCode.IsReserved() {
			return errWebSocket
		}
		if h.Length > maxFrameBytes || int64(len(message))+h.Length > maxFrameBytes {
			return errFrame
		}
		data := make([]byte, h.Length)
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if h.OpCode.IsControl() {
			if !h.Fin || h.Length > ws.MaxControlFramePayloadSize {
				return errWebSocket
			}
			if h.OpCode == ws.OpClose {
				if err := w.end(); err != nil {
					return err
				}
				if err := w.tell(w.untold()); err != nil {
					return err
				}
			}
			if err := w.frame(h, data); err != nil {
				return err
			}
			continue
		}
		if within != (h.OpCode == ws.OpContinuation) || !within && h.OpCode != ws.OpBinary {
			return errWebSocket
		}
		message = append(message, data...)
		if within = !h.Fin; within {
			continue
		}
		if err := w.channel(message); err != nil {
			return err
		}
		message = message[:0]
	}
}

// channel takes one message of the API server.
func (w *webSocketTunnel) channel(message []byte) error {
	if len(message) == 0 {
		return nil
	}
	o := w.outputs[message[0]]
	if o == nil {
		return w.frame(ws.Header{Fin: true, OpCode: ws.OpBinary, Length: int64(len(message))}, message)
	}
	if len(message) == 1 {
		// The stream was opened: the client waits for that.
		return w.frame(ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 1}, message)
	}
	if message[0] == channelError {
		// It comes last: nothing may be held back behind it.
		if err := errors.Join(w.outputs[channelStdout].drain(), w.outputs[channelStderr].drain()); err != nil {
			return err
		}
		if err := errors.Join(o.write(message[1:]), o.drain()); err != nil {
			return err
		}
		w.told = true
		return nil
	}
	return o.write(message[1:])
}

// frame passes a frame on as it is.
func (w *webSocketTunnel) frame(h ws.Header, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ws.WriteHeader(w.to, h); err != nil {
		return err
	}
	_, err := w.to.Write(data)
	return err
}
