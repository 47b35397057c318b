package proxy

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gobwas/ws"
	"github.com/moby/spdystream/spdy"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// oneWay is a connection whose other end has sent all that it will.
type oneWay struct {
	io.Reader
	io.Writer
}

func (oneWay) Close() error { return nil }

func fuzzScope(f *testing.F) *mask.Scoped {
	f.Helper()
	m, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	s := m.Scope("run")
	if err := s.JSON(io.Discard, strings.NewReader(`{"kind":"Secret","stringData":{"k":"`+fuzzValue+`"}}`)); err != nil {
		f.Fatal(err)
	}
	return s
}

const fuzzValue = "Zr8-correct-horse-77Q"

// channelOf gives all that the frames of a WebSocket carry on a channel.
func channelOf(t *testing.T, stream []byte, ch byte) string {
	t.Helper()
	var all bytes.Buffer
	for r := bytes.NewReader(stream); r.Len() > 0; {
		f, err := ws.ReadFrame(r)
		if err != nil {
			t.Fatalf("what came out can't be read: %v", err)
		}
		if f.Header.OpCode == ws.OpBinary && len(f.Payload) > 0 && f.Payload[0] == ch {
			all.Write(f.Payload[1:])
		}
	}
	return all.String()
}

// FuzzWebSocket has whatever bytes come from the API server: what goes on is
// frames, and never the value on a channel that is masked.
func FuzzWebSocket(f *testing.F) {
	s := fuzzScope(f)
	frame := func(data string) []byte { return ws.MustCompileFrame(ws.NewBinaryFrame([]byte(data))) }
	f.Add(append(frame("\x01a "+fuzzValue[:9]), frame("\x01"+fuzzValue[9:]+" b\n")...), false)
	f.Add(append(frame("\x02"+fuzzValue), frame("\x03{}")...), true)
	f.Add(append(ws.MustCompileFrame(ws.NewPingFrame([]byte("p"))), ws.MustCompileFrame(ws.NewCloseFrame(nil))...), false)
	f.Add([]byte("\x02\x05\x01abcd\x80\x02ef"), false) // in two fragments
	f.Add([]byte("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"), false)
	f.Fuzz(func(t *testing.T, in []byte, bytewise bool) {
		var src io.Reader = bytes.NewReader(in)
		if bytewise {
			src = iotest.OneByteReader(src)
		}
		tunnel := newWebSocketTunnel(t.Context(), oneWay{src, io.Discard}, s, uncut(nil))
		out, _ := io.ReadAll(tunnel)
		for ch := range byte(4) {
			if got := channelOf(t, out, ch); ch > 0 && strings.Contains(got, fuzzValue) {
				t.Fatalf("it passed on channel %d: %q", ch, got)
			}
		}
	})
}

// fuzzTape records to s.
func fuzzTape(s *shelf) *tape {
	return &tape{
		to: s, tries: wait.Backoff{Steps: 1}, start: time.Now(), cut: func(*apierrors.StatusError) {},
		session: recording.Session{ID: "s", Started: time.Now(), Verb: "exec", Agent: agent},
	}
}

// uncut is a session that nobody can cut.
func uncut(t *tape) *upgrade { return &upgrade{tape: t, cut: func(*apierrors.StatusError) {}} }

// FuzzWebSocketInput has whatever bytes come from the client: what of them reaches
// a command's stdin is in the recording.
func FuzzWebSocketInput(f *testing.F) {
	s := fuzzScope(f)
	frame := func(h ws.Header, data string) []byte {
		h.Masked, h.Mask, h.Length = true, [4]byte{1, 2, 3, 4}, int64(len(data))
		b := []byte(data)
		ws.Cipher(b, h.Mask, 0)
		var out bytes.Buffer
		if err := ws.WriteHeader(&out, h); err != nil {
			f.Fatal(err)
		}
		return append(out.Bytes(), b...)
	}
	whole := ws.Header{Fin: true, OpCode: ws.OpBinary}
	f.Add(append(frame(whole, "\x00ls\n"), frame(whole, "\x04{\"Width\":1}")...), false)
	f.Add(slices.Concat(frame(ws.Header{OpCode: ws.OpBinary}, ""), frame(ws.Header{Fin: true, OpCode: ws.OpPing}, "p"), frame(ws.Header{Fin: true, OpCode: ws.OpContinuation}, "\x00rm -rf /\n")), true)
	f.Add(append(frame(ws.Header{OpCode: ws.OpBinary}, "\x07"), frame(ws.Header{Fin: true, OpCode: ws.OpContinuation}, "\x00rm -rf /\n")...), false)
	f.Add(frame(ws.Header{Fin: true, OpCode: ws.OpText}, "\x00ls\n"), false)
	f.Fuzz(func(t *testing.T, in []byte, bytewise bool) {
		kept := newShelf()
		var passed bytes.Buffer
		ended := make(chan struct{})
		r, w := io.Pipe()
		tape := fuzzTape(kept)
		tunnel := newWebSocketTunnel(t.Context(), oneWay{r, &passed}, s, uncut(tape))
		go func() {
			defer close(ended)
			_, _ = io.Copy(io.Discard, tunnel)
		}()
		for at := 0; at < len(in); {
			n := len(in) - at
			if bytewise {
				n = 1
			}
			_, _ = tunnel.Write(in[at : at+n])
			at += n
		}
		_ = tunnel.client.Close()
		_ = w.Close()
		_ = tunnel.Close()
		<-ended
		tunnel.pumps.Wait()
		recorded := kept.text(recording.Input)
		if mask.HasMark(recorded) {
			return
		}
		// What the API server reads of it: each frame is a message (x/net/websocket).
		var typed []byte
		for src := bytes.NewReader(passed.Bytes()); ; {
			h, err := ws.ReadHeader(src)
			if err != nil || h.Length > int64(src.Len()) {
				break
			}
			data := make([]byte, h.Length)
			_, _ = io.ReadFull(src, data) // there is as much
			if h.OpCode.IsControl() {
				continue
			}
			ws.Cipher(data, h.Mask, 0)
			if len(data) > 1 && data[0] == channelStdin {
				typed = append(typed, data[1:]...)
			}
		}
		if !strings.HasPrefix(recorded, string(typed)) {
			t.Fatalf("%q reached the command, %q is recorded", typed, recorded)
		}
	})
}

// FuzzSPDY has whatever bytes come from both sides.
func FuzzSPDY(f *testing.F) {
	s := fuzzScope(f)
	frames := func(all ...spdy.Frame) []byte {
		var b bytes.Buffer
		fr, err := spdy.NewFramer(&b, nil)
		if err != nil {
			f.Fatal(err)
		}
		for _, x := range all {
			if err := fr.WriteFrame(x); err != nil {
				f.Fatal(err)
			}
		}
		return b.Bytes()
	}
	open := func(id spdy.StreamId, what string) spdy.Frame {
		return &spdy.SynStreamFrame{StreamId: id, Headers: http.Header{"Streamtype": {what}}}
	}
	f.Add(frames(open(1, "error"), open(3, "stdout")), frames(&spdy.DataFrame{StreamId: 3, Data: []byte(fuzzValue[:5])}, &spdy.DataFrame{StreamId: 3, Data: []byte(fuzzValue[5:]), Flags: spdy.DataFlagFin}))
	f.Add(frames(open(1, "stdin")), frames(&spdy.SynReplyFrame{StreamId: 1, Headers: http.Header{}}, &spdy.GoAwayFrame{}))
	f.Add([]byte{}, []byte("\x00\x00\x00\x01\x00\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, client, server []byte) {
		tunnel, err := newSPDYTunnel(t.Context(), oneWay{bytes.NewReader(server), io.Discard}, s, uncut(fuzzTape(newShelf())))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tunnel.Write(client); err != nil {
			client = nil // the connection ended before all was read
		}
		out, _ := io.ReadAll(tunnel)
		_ = tunnel.Close()
		r, err := spdy.NewFramer(nil, bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		texts := map[spdy.StreamId]string{}
		for {
			frame, err := r.ReadFrame()
			if err != nil {
				break
			}
			if d, ok := frame.(*spdy.DataFrame); ok {
				texts[d.StreamId] += string(d.Data)
			}
		}
		for id, text := range texts {
			if strings.Contains(text, fuzzValue) && !bytes.Contains(client, []byte("stdin")) && len(client) == 0 {
				t.Fatalf("it passed on stream %d: %q", id, text)
			}
		}
	})
}

// FuzzPath holds what checkPath lets through against the rule behind it: one
// reading only.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"/api/v1/pods", "/api//v1", "/api/v1/../secrets", "/api/v1/%2e%2e/x", "/a%2Fb", "/a;b", "/a%00", "/api/v1/namespaces/a/pods/", "//", "/a\\b"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || checkPath(u) != nil {
			return
		}
		if strings.Contains(u.Path, "//") || strings.Contains(u.Path+"/", "/../") || strings.Contains(u.Path+"/", "/./") || strings.ContainsAny(u.Path, "\x00\r\n") {
			t.Fatalf("%q passed", raw)
		}
		if again, err := url.ParseRequestURI(u.EscapedPath()); err != nil || again.Path != u.Path {
			t.Fatalf("%q is read as %q and as %q", raw, u.Path, again)
		}
	})
}

// FuzzBody has whatever body an agent sends to change a Secret: no mark and no
// other's value reaches the API server.
func FuzzBody(f *testing.F) {
	m, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	s := m.Scope("run")
	var masked bytes.Buffer
	if err := s.JSONOf(mask.Ref{Resource: "secrets"}, &masked, strings.NewReader(secret())); err != nil {
		f.Fatal(err)
	}
	for _, mt := range []string{typeJSON, typeMerge, typeApply, typeYAML, typeStrategic} {
		f.Add(mt, masked.String())
	}
	f.Add(typeJSONPatch, `[{"op":"replace","path":"/data/pin","value":"x"},{"op":"move","from":"/data","path":"/x"}]`)
	f.Add(typeProtobuf, "k8s\x00\x0a\x0d\x0a\x02v1\x12\x06Secret\x12\x00")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		c := &change{info: secretInfo, query: url.Values{}, scoped: s, current: currentSecret}
		out, _, refused := c.body(t.Context(), contentType, []byte(body))
		if refused != nil {
			return
		}
		if v, err := mask.Decode(out); err == nil {
			if at, found := mask.ContainsMark(v); found {
				t.Fatalf("a mark at %s went on: %s", at, out)
			}
		}
		if mask.HasMark(string(out)) {
			t.Fatalf("a mark went on: %s", out)
		}
	})
}
