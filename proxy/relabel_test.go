package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/spdystream/spdy"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// TestI7_AStreamIsNotRelabelled: spdystream goes on with a stream as it was
// opened first.
func TestI7_AStreamIsNotRelabelled(t *testing.T) {
	t.Parallel()
	m, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := m.Scope("run")
	if err := s.JSON(io.Discard, strings.NewReader(`{"kind":"Secret","stringData":{"k":"`+fuzzValue+`"}}`)); err != nil {
		t.Fatal(err)
	}
	frames := func(all ...spdy.Frame) []byte {
		var b bytes.Buffer
		f, err := spdy.NewFramer(&b, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, frame := range all {
			if err := f.WriteFrame(frame); err != nil {
				t.Fatal(err)
			}
		}
		return b.Bytes()
	}
	open := func(what string) spdy.Frame {
		return &spdy.SynStreamFrame{StreamId: 5, Headers: http.Header{"Streamtype": {what}}}
	}
	server, sends := io.Pipe()
	tunnel, err := newSPDYTunnel(t.Context(), oneWay{server, io.Discard}, s, uncut(nil))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(tunnel) // cut off when the session is refused
		got <- b
	}()
	for _, b := range [][]byte{frames(open("stdout"), open("stdin")), {0x80}} { // the second is taken when the first has been read
		if _, err := tunnel.Write(b); err != nil {
			t.Error(err)
		}
	}
	_, _ = sends.Write(frames(&spdy.DataFrame{StreamId: 5, Data: []byte("k: " + fuzzValue + "\n")})) // the session may have ended
	_ = sends.Close()
	if b := <-got; bytes.Contains(b, []byte(fuzzValue)) {
		t.Errorf("it passed: %q", b)
	}
}
