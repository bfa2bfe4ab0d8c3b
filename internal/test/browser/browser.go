// Package browser drives a real Chromium for tests: it opens pages, reads them,
// presses keys and takes screenshots. It keeps the errors and warnings that the
// browser reports, and runs axe on a page.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// timeout bounds one step in the browser.
const timeout = 5 * time.Minute

// Browser is a Chromium that runs without a window.
type Browser struct{ ctx context.Context }

// Start starts a Chromium that connects to loopback only and accepts any
// certificate. It ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: run scripts/emulators first", err)
	}
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // required to run as root; it opens our own pages only
		chromedp.IgnoreCertErrors,
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
	)...)
	ctx, cancel := chromedp.NewContext(ctx, chromedp.WithErrorf(t.Logf))
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("end the browser: %v", err)
		}
		cancel()
		cancelAllocator()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return &Browser{ctx}
}

// Look is the screen of a tab and the settings of its browser.
type Look struct {
	Width, Height int64
	Dark          bool
	ForcedColors  bool // as Windows' contrast themes
	NoScript      bool
}

// Tab is a tab with its own cookies.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

// Open opens an empty tab, in the time zone of Berlin. It is closed with the test.
func (b *Browser) Open(t testing.TB, look Look) *Tab {
	t.Helper()
	tab := &Tab{t: t}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(tab.note))
	t.Cleanup(cancel)
	tab.ctx = ctx
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	scheme, forced := "light", "none"
	if look.Dark {
		scheme = "dark"
	}
	if look.ForcedColors {
		forced = "active"
	}
	call(tab, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: look.Width, Height: look.Height, DeviceScaleFactor: 1.5, Mobile: look.Width < 500})
	call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "forced-colors", Value: forced}}})
	call(tab, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Europe/Berlin"})
	call(tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: look.NoScript})
	return tab
}

// note keeps what the browser reports about a page, except that the server returned
// an error status, which the test checks itself.
func (tab *Tab) note(event any) {
	var problem string
	switch event := event.(type) {
	case *log.EventEntryAdded:
		if event.Entry.Source == log.EntrySourceNetwork && strings.Contains(event.Entry.Text, "the server responded with a status of") {
			return
		}
		problem = fmt.Sprintf("%s, %s: %s", event.Entry.Source, event.Entry.Level, event.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		problem = fmt.Sprintf("the page called console.%s", event.Type)
	case *runtime.EventExceptionThrown:
		problem = "exception: " + event.ExceptionDetails.Text
	default:
		return
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.problems = append(tab.problems, problem)
}

// Problems returns the errors, warnings and policy violations so far.
func (tab *Tab) Problems() []string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return slices.Clone(tab.problems)
}

// run runs one step and returns its result.
func run[T any](tab *Tab, what string, step chromedp.Action[T]) T {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, timeout)
	defer cancel()
	found, err := chromedp.Run(ctx, step)
	if err != nil {
		tab.t.Fatalf("%s: %v", what, err)
	}
	return found
}

// call sends one command of the browser's debugging protocol.
func call[P, R any](tab *Tab, command cdp.Command[P, R], params P) R {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, timeout)
	defer cancel()
	result, err := chromedp.Call(ctx, command, params)
	if err != nil {
		tab.t.Fatalf("%s: %v", command.Method, err)
	}
	return result
}

// Go opens a URL, whatever status it returns.
func (tab *Tab) Go(url string) {
	tab.t.Helper()
	run(tab, "open a page", chromedp.Navigate(url))
	tab.Await("main")
}

// Await waits until an element is visible.
func (tab *Tab) Await(selector string) {
	tab.t.Helper()
	run(tab, "wait for "+selector, chromedp.WaitVisible(selector))
}

// AwaitTrue waits until an expression is true on the page.
func (tab *Tab) AwaitTrue(expression string) {
	tab.t.Helper()
	run(tab, "wait for "+expression, chromedp.Poll[bool](expression))
}

// Text returns the visible text of an element.
func (tab *Tab) Text(selector string) string {
	tab.t.Helper()
	return run(tab, "read "+selector, chromedp.Text(selector))
}

// Title returns the page's title.
func (tab *Tab) Title() string {
	tab.t.Helper()
	return run(tab, "read the title", chromedp.Title())
}

// Location returns the page's URL.
func (tab *Tab) Location() string {
	tab.t.Helper()
	return run(tab, "read the URL", chromedp.Location())
}

// Focus focuses an element.
func (tab *Tab) Focus(selector string) {
	tab.t.Helper()
	run(tab, "focus "+selector, chromedp.Focus(selector))
}

// Press presses keys in the focused element.
func (tab *Tab) Press(keys string) {
	tab.t.Helper()
	run(tab, "press keys", chromedp.KeyEvent(keys))
}

// PressAndLoad presses keys that open another page, and waits for that page.
func (tab *Tab) PressAndLoad(keys string) {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, timeout)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.KeyEvent(keys)); err != nil {
		tab.t.Fatalf("press keys that open a page: %v", err)
	}
	tab.Await("main")
}

// Eval returns the value of an expression, which may be a promise, on a tab's page.
func Eval[T any](tab *Tab, expression string) T {
	tab.t.Helper()
	return run(tab, "evaluate "+expression[:min(len(expression), 200)], chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// AllowClipboard permits pages of an origin to write to the clipboard. A browser with
// a window permits it to the page whose button was pressed.
func (tab *Tab) AllowClipboard(origin string) {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, timeout)
	defer cancel()
	_, err := chromedp.CallBrowser(ctx, cdpbrowser.SetPermission, cdpbrowser.SetPermissionParams{
		Permission: &cdpbrowser.PermissionDescriptor{Name: "clipboard-write"}, Setting: cdpbrowser.PermissionSettingGranted,
		Origin: origin, BrowserContextID: chromedp.FromContext(tab.ctx).BrowserContextID,
	})
	if err != nil {
		tab.t.Fatalf("permit the clipboard: %v", err)
	}
}

// Paste returns the text on the clipboard. It pastes into a new element, because our
// pages may not read the clipboard, and removes that element.
func (tab *Tab) Paste() string {
	tab.t.Helper()
	Eval[bool](tab, `document.body.append(Object.assign(document.createElement("textarea"), { id: "pasted" })) ?? true`)
	tab.Focus("#pasted")
	run(tab, "paste", chromedp.KeyEvent("v", chromedp.KeyModifiers(kb.ModifierCtrl), func(p *input.DispatchKeyEventParams) {
		if p.Type != input.DispatchKeyEventTypeKeyUp {
			p.Commands = []string{"paste"}
		}
	}))
	return Eval[string](tab, `(() => { const area = document.getElementById("pasted"); area.remove(); return area.value })()`)
}

// Node is an element of the accessibility tree.
type Node struct{ Role, Name string }

// AccessibilityTree returns the page as screen readers get it, in reading order,
// without ignored nodes.
func (tab *Tab) AccessibilityTree() []Node {
	tab.t.Helper()
	all := map[accessibility.NodeID]*accessibility.Node{}
	tree := call(tab, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	for _, node := range tree {
		all[node.NodeID] = node
	}
	var nodes []Node
	var visit func(node *accessibility.Node)
	visit = func(node *accessibility.Node) {
		if node == nil {
			return
		}
		if !node.Ignored {
			nodes = append(nodes, Node{text(node.Role), text(node.Name)})
		}
		for _, child := range node.ChildIDs {
			visit(all[child])
		}
	}
	visit(tree[0])
	return nodes
}

func text(value *accessibility.Value) string {
	var s string
	if value != nil {
		_ = json.Unmarshal(value.Value, &s) // a value that is not text counts as no name
	}
	return s
}

// Screenshot returns the whole page as a PNG file.
func (tab *Tab) Screenshot() []byte {
	tab.t.Helper()
	return run(tab, "take a screenshot", chromedp.FullScreenshot(100))
}

// Overflow returns by how many pixels the page is wider than its screen.
func (tab *Tab) Overflow() int {
	tab.t.Helper()
	return Eval[int](tab, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
}

// Axe runs axe-core on the page, with its rules for WCAG 2.2 AA and its best
// practices, and returns the violations. The page's policy does not apply to it.
func (tab *Tab) Axe() []string {
	tab.t.Helper()
	source, err := os.ReadFile(emulator.Tool(tab.t, "axe-core-4.14.1/node_modules/axe-core/axe.min.js"))
	if err != nil {
		tab.t.Fatal(err)
	}
	Eval[bool](tab, string(source)+"\n;true")
	return Eval[[]string](tab, `axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })
		.then(({ violations }) => violations.flatMap(({ id, help, nodes }) => nodes.map(({ html }) => id + ": " + help + ": " + html)))`)
}

// Faint returns the texts whose contrast with their background is below 4.5, the
// minimum of WCAG 2.2 AA.
func (tab *Tab) Faint() []string {
	tab.t.Helper()
	return Eval[[]string](tab, faint)
}

const faint = `(() => {
	const parts = (color) => color.match(/[\d.]+/g).map(Number);
	const light = (color) => {
		const [r, g, b] = parts(color).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = (element) => {
		for (; element; element = element.parentElement) {
			const color = getComputedStyle(element).backgroundColor;
			if ((parts(color)[3] ?? 1) === 1) return color;
		}
		return "rgb(255, 255, 255)";
	};
	const found = [];
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
		if (text === "" || !element.checkVisibility() || element.closest("script, .visually-hidden")) continue;
		const [dark, bright] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
		const contrast = (bright + 0.05) / (dark + 0.05);
		if (contrast < 4.5) found.push(text + ": " + contrast.toFixed(2));
	}
	return found;
})()`
