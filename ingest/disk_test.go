package ingest

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// disk is a file system of the test's own on a file, which stands for a disk: what
// the file system has not been told to write yet isn't in it.
type disk struct {
	t     *testing.T
	image string
	// Dir is where it is mounted.
	dir string
}

// newDisk makes one. Only root may mount it, and not everywhere.
func newDisk(t *testing.T, bytes int64) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: only root can mount a file system")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, bytes); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("NOT RUN: no ext4 can be made here: %v %s", err, out)
	}
	d := &disk{t: t, image: image}
	d.mount()
	return d
}

// mount has the file system write by itself as seldom as it can be told to.
func (d *disk) mount() {
	d.t.Helper()
	d.dir = d.t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,commit=900", d.image, d.dir).CombinedOutput(); err != nil {
		d.t.Skipf("NOT RUN: a file can't be mounted here: %v %s", err, out)
	}
	d.t.Cleanup(func() {
		if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
			d.t.Errorf("umount: %v %s", err, out)
		}
	})
}

// cutPower gives the disk as it would be found if the power had gone now.
func (d *disk) cutPower() *disk {
	d.t.Helper()
	content, err := os.ReadFile(d.image)
	if err != nil {
		d.t.Fatal(err)
	}
	after := &disk{t: d.t, image: filepath.Join(d.t.TempDir(), "image")}
	if err := os.WriteFile(after.image, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
	after.mount()
	return after
}

// TestI6_APowerCutLosesNoAnsweredBatch takes the disk as it is the moment after the
// last answer, without what only the kernel knew, and looks for each batch on it.
func TestI6_APowerCutLosesNoAnsweredBatch(t *testing.T) {
	d := newDisk(t, 256<<20)
	in, _, _ := start(t, d.dir, away{})
	const batches = 5
	for i := range batches {
		mustPost(t, in, "demo", variant(t, "recorded.json", i))
	}
	mustPost(t, in, "demo", read(t, "bad-events.json"))
	found, _, _ := start(t, d.cutPower().dir, away{})
	if got := backlog(t, found); got != batches+1 {
		t.Errorf("%d messages are on the disk, want %d", got, batches+1)
	}
	if got := messages(t, found, quarantineName); got != 3 {
		t.Errorf("%d messages are in quarantine on the disk, want 3", got)
	}
}

// The test above can fail: a JetStream as it comes, which answers before its disk
// does, loses what it has answered.
func TestAPowerCutLosesWhatIsNotSynced(t *testing.T) {
	d := newDisk(t, 256<<20)
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: d.dir, JetStreamMaxStore: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(startTimeout) {
		t.Fatal("it did not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st := &stream{js: js, nc: nc}
	if err := st.ensure(t.Context(), JetStream{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := st.publish(t.Context(), &nats.Msg{Subject: subjectPrefix + "demo", Data: []byte("x")}, "id"); err != nil {
		t.Fatal(err)
	}
	found, _, _ := start(t, d.cutPower().dir, away{})
	if got := backlog(t, found); got != 0 {
		t.Errorf("%d messages are on the disk: the simulation loses nothing, so it proves nothing", got)
	}
}

// TestI6_AFullDiskAnswers503 fills the disk, and looks that nothing is answered 200
// that isn't there, that batches are taken again once there is room, and that none
// is there twice.
func TestI6_AFullDiskAnswers503(t *testing.T) {
	d := newDisk(t, 192<<20)
	in, _, stop := start(t, d.dir, away{})
	postAs := func(i int) int {
		body := variant(t, "recorded.json", i)
		began := time.Now()
		code := post(in, "/audit/demo", body).Code
		if time.Since(began) > publishTimeout/5 {
			t.Errorf("the answer %d took %s", code, time.Since(began))
		}
		return code
	}
	if code := postAs(0); code != http.StatusOK {
		t.Fatalf("got %d on an empty disk", code)
	}
	filler := filepath.Join(d.dir, "filler")
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=64k", "conv=fsync").CombinedOutput(); err == nil || !strings.Contains(string(out), "No space") {
		t.Fatalf("the disk isn't full: %v %s", err, out)
	}
	full := 0
	for i := 1; i <= 40; i++ {
		switch code := postAs(i); code {
		case http.StatusOK:
		case http.StatusServiceUnavailable:
			full++
		default:
			t.Fatalf("got %d when the disk is full", code)
		}
	}
	if full == 0 {
		t.Fatal("a full disk took everything")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "batches are taken again", func() bool { return postAs(41) == http.StatusOK })
	for i := 1; i <= 40; i++ {
		eventually(t, fmt.Sprintf("batch %d is taken", i), func() bool { return postAs(i) == http.StatusOK })
	}
	stop()
	found, _, _ := start(t, d.dir, away{})
	if got := backlog(t, found); got != 42 {
		t.Errorf("%d messages wait, want 42", got)
	}
}

// TestI6_AnEmbeddedJetStreamThatFailsIsStartedAnew has it fail as one does that
// couldn't write, and looks that what it held is there and more is taken.
func TestI6_AnEmbeddedJetStreamThatFailsIsStartedAnew(t *testing.T) {
	t.Parallel()
	in, log, _ := start(t, t.TempDir(), away{})
	mustPost(t, in, "demo", variant(t, "agent.json", 0))
	before := in.stream.Load()
	if err := before.server.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	if code := post(in, "/audit/demo", variant(t, "agent.json", 1)).Code; code != http.StatusServiceUnavailable {
		t.Errorf("got %d", code)
	}
	eventually(t, "it is started anew", func() bool { s := in.stream.Load(); return s != nil && s != before && in.Ready() == nil })
	mustPost(t, in, "demo", variant(t, "agent.json", 1))
	if got := backlog(t, in); got != 2 {
		t.Errorf("%d messages wait, want 2", got)
	}
	if !strings.Contains(log.String(), "started anew") {
		t.Error("the log doesn't tell")
	}
}
