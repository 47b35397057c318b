package proxy

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

func TestHoldTimeout(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		set    *metav1.Duration
		want   time.Duration
		faults string
	}{
		{"left out it is an hour", nil, time.Hour, ""},
		{"zero lets nothing wait", &metav1.Duration{}, 0, ""},
		{"a day at most", &metav1.Duration{Duration: 24 * time.Hour}, 24 * time.Hour, ""},
		{"not more", &metav1.Duration{Duration: 25 * time.Hour}, 25 * time.Hour, "proxy.holdTimeout"},
		{"not less than none", &metav1.Duration{Duration: -time.Second}, -time.Second, "proxy.holdTimeout"},
	} {
		c := Config{Listen: ":8443", TLS: httpserve.TLS{CertFile: "crt", KeyFile: "key"}, HoldTimeout: tc.set}
		faults := ""
		for _, err := range c.Validate(field.NewPath("proxy")) {
			if err.Field == "proxy.holdTimeout" { // the files aren't there
				faults += err.Field
			}
		}
		if c.holdTimeout() != tc.want || faults != tc.faults {
			t.Errorf("%s: %s, faults of %q", tc.name, c.holdTimeout(), faults)
		}
	}
}
