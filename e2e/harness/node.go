package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// NodeName is the node's, where Options.Node asks for one.
	NodeName = "node"
	// NodeImage is the only image that there is on it: busybox, which sleeps.
	NodeImage = "tipstaff.dev/e2e/busybox:1"
	// busybox is Debian's, without any library (package busybox-static).
	busybox = "/bin/busybox"
)

// node is a kubelet with its container runtime. Both run in namespaces of their
// own: when they end, however that happens, so do their containers and mounts.
type node struct {
	dir     string
	process *process
}

// NodeProblem says why no node can run here; nil where one can.
func NodeProblem() error {
	if os.Geteuid() != 0 {
		return errors.New("a kubelet and its containers need root")
	}
	for _, name := range []string{"containerd", "runc", "ctr", "unshare", busybox} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is missing: run `make node`", name)
		}
	}
	return nil
}

// nodeFlags are what the API server needs to reach the kubelet.
func (c *Cluster) nodeFlags() []string {
	if !c.opts.Node {
		return nil
	}
	return []string{
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + c.CAFile,
		"--kubelet-client-certificate=" + c.certs.callback.cert, "--kubelet-client-key=" + c.certs.callback.key,
	}
}

// startNode runs containerd and a kubelet, and returns when the node is ready.
func (c *Cluster) startNode(ctx context.Context) error {
	if err := NodeProblem(); err != nil {
		return err
	}
	n := &node{dir: filepath.Join(c.Dir, "node")}
	for _, sub := range []string{"cni", "kubelet", "pods", "manifests"} {
		if err := os.MkdirAll(filepath.Join(n.dir, sub), 0o700); err != nil {
			return fmt.Errorf("make the node's folder: %w", err)
		}
	}
	kubelet, err := c.ca.serving("kubelet")
	if err != nil {
		return err
	}
	own, err := c.ca.client("kubelet-client", "system:node:"+NodeName, "system:nodes", "system:masters") // there is no node authorizer here
	if err != nil {
		return err
	}
	if err := writeKubeconfig(c.kubeconfig("kubelet"), c.APIServerURL, c.ca.pem, userCert(own)); err != nil {
		return err
	}
	if err := c.writeNode(n, kubelet); err != nil {
		return err
	}
	// /run, where shims have their sockets, and /var/log, where the kubelet links
	// logs, are the node's own.
	script := fmt.Sprintf(`set -e
mount -t tmpfs none /run
mount -t tmpfs none /var/log
containerd --config %[1]s/containerd.toml >%[2]s 2>&1 &
until ctr --address %[1]s/containerd.sock version >/dev/null 2>&1; do sleep 0.1; done
ctr --address %[1]s/containerd.sock --namespace k8s.io images import %[1]s/image.tar
exec %[3]s --config=%[1]s/kubelet.yaml --kubeconfig=%[4]s --root-dir=%[1]s/kubelet --hostname-override=%[5]s --cloud-provider=external
`, n.dir, c.logPath("containerd"), c.bin("kubelet"), c.kubeconfig("kubelet"), NodeName)
	n.process, err = startProcess("kubelet", c.logPath("kubelet"), "unshare", os.Environ(),
		"--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", script)
	if err != nil {
		return err
	}
	c.node = n
	return c.waitForNode(ctx)
}

// writeNode writes what containerd and the kubelet read.
func (c *Cluster) writeNode(n *node, serving pair) error {
	_, port, err := net.SplitHostPort(c.addr.kubelet)
	if err != nil {
		return err
	}
	image, err := busyboxImage()
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"image.tar": string(image),
		"containerd.toml": fmt.Sprintf(`version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "%[1]s/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[2]s"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "%[1]s/cni"
    bin_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`, n.dir, NodeImage),
		// No pod asks for a network: all share the host's loopback.
		"cni/10-loopback.conflist": `{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "loopback"}]}`,
		"kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: %s
healthzPort: 0
readOnlyPort: 0
tlsCertFile: %q
tlsPrivateKeyFile: %q
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %q}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: "unix://%s/containerd.sock"
staticPodPath: "%[5]s/manifests"
podLogsDir: "%[5]s/pods"
failSwapOn: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: "1Mi", nodefs.available: "0%%", imagefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.inodesFree: "0%%"}
syncFrequency: 2s
nodeStatusUpdateFrequency: 2s
`, port, serving.cert, serving.key, c.CAFile, n.dir),
	} {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the node's %s: %w", name, err)
		}
	}
	return nil
}

// waitForNode gives the node its address, which is a cloud's to give, and waits
// until pods may run.
func (c *Cluster) waitForNode(ctx context.Context) error {
	var last string
	err := wait.PollUntilContextTimeout(ctx, pollEvery*4, partTimeout, true, func(ctx context.Context) (bool, error) {
		if !c.node.process.running() {
			return false, c.node.process.ended()
		}
		for _, args := range [][]string{
			{"patch", "node", NodeName, "--subresource=status", "--type=merge", "-p", `{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}]}}`},
			{"patch", "node", NodeName, "--type=merge", "-p", `{"spec":{"taints":null}}`},
		} {
			if r := c.Kubectl(ctx, c.Admin, args...); !r.OK() {
				last = r.Output()
				return false, nil
			}
		}
		r := c.Kubectl(ctx, c.Admin, "get", "node", NodeName, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		last = r.Output()
		return strings.HasPrefix(r.Stdout, "True"), nil
	})
	if err != nil {
		return fmt.Errorf("the node isn't ready: %w: %s", err, last)
	}
	return nil
}

// stop removes the node's pods, so that the kubelet takes their control groups
// away, and ends it.
func (n *node) stop(c *Cluster, grace time.Duration) {
	if n == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*grace)
	defer cancel()
	// What goes wrong here costs an empty control group: the processes end anyway.
	_ = c.Kubectl(ctx, c.Admin, "delete", "pods", "--all", "--all-namespaces", "--grace-period=1", "--wait=true")
	n.process.stop(grace)
}

// busyboxImage makes an image of Debian's busybox, as `docker save` writes one.
func busyboxImage() ([]byte, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's commands: %w", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, data []byte) {
		if err == nil {
			h.Size = int64(len(data))
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(data)
		}
	}
	for _, dir := range []string{"bin/", "tmp/", "etc/", "root/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, binary)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("write the image: %w", err)
	}
	sum := sha256.Sum256(layer.Bytes())
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Cmd": []string{"/bin/sleep", "2147483647"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return nil, fmt.Errorf("write the image: %w", err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{NodeImage}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, fmt.Errorf("write the image: %w", err)
	}
	var image bytes.Buffer
	w = tar.NewWriter(&image)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "layer.tar", Mode: 0o644}, layer.Bytes())
	add(tar.Header{Typeflag: tar.TypeReg, Name: "config.json", Mode: 0o644}, config)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Mode: 0o644}, manifest)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("write the image: %w", err)
	}
	return image.Bytes(), nil
}
