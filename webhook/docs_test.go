package webhook

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/manifests"
)

// What people copy from the docs must hold as it stands, single rules beside the shipped ones.
func TestTheDocsRulesCompile(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```")
	var shipped RuleFile
	if err := yaml.UnmarshalStrict(manifests.DefaultRules, &shipped); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, page := range []string{"../docs/rules.md", "../docs/configuration.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			var cfg Config
			beside := true
			if body := strings.ReplaceAll("\n"+m[2], "\n"+m[1], "\n"); strings.HasPrefix(body, "\n- name: ") {
				err = yaml.UnmarshalStrict([]byte(body), &cfg.Rules)
			} else {
				var file struct {
					Webhook struct {
						Variables []Variable `json:"variables"`
						Rules     []Rule     `json:"rules"`
						RuleFiles []string   `json:"ruleFiles"`
					} `json:"webhook"`
				}
				err = yaml.Unmarshal([]byte(body), &file)
				cfg.Variables, cfg.Rules = file.Webhook.Variables, file.Webhook.Rules
				beside = slices.Contains(file.Webhook.RuleFiles, "default")
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", page, err, m[2])
			}
			if len(cfg.Rules) == 0 {
				continue
			}
			tried++
			if beside {
				cfg.Rules = append(cfg.Rules, shipped.Rules...)
				cfg.Variables = append(cfg.Variables, shipped.Variables...)
			}
			if _, err := NewRuleSet(cfg); err != nil {
				t.Errorf("%s: %v\n%s", page, err, m[2])
			}
		}
	}
	if tried < 3 {
		t.Errorf("found only %d examples of rules", tried)
	}
}
