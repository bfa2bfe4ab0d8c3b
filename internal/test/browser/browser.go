// Package browser is a person in front of a real browser, for tests: they open
// pages, read them, press keys, and take pictures. What the browser itself has to
// say against a page is kept.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
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
)

// patience is how long a page may take for what it must do.
const patience = time.Minute

// Browser is one that runs, without a window.
type Browser struct{ ctx context.Context }

// Start starts a Chromium that reaches loopback only and takes any certificate. It
// ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: run scripts/emulators first", err)
	}
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // it does not start as root otherwise, and sees our own pages only
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

// Look is what kind of screen a tab has, and what its person has chosen.
type Look struct {
	Width, Height int64
	Dark          bool
	NoScript      bool
}

// Tab is one tab, with cookies of its own.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	troubles []string
}

// Open opens an empty tab, of somebody in Berlin. It is closed with the test.
func (b *Browser) Open(t testing.TB, look Look) *Tab {
	t.Helper()
	tab := &Tab{t: t}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(tab.note))
	t.Cleanup(cancel)
	tab.ctx = ctx
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	scheme := "light"
	if look.Dark {
		scheme = "dark"
	}
	call(tab, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: look.Width, Height: look.Height, DeviceScaleFactor: 1.5, Mobile: look.Width < 500})
	call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	call(tab, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Europe/Berlin"})
	call(tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: look.NoScript})
	return tab
}

// note keeps what the browser has to say against a page. That the server answered
// with an error status is the test's to judge.
func (tab *Tab) note(event any) {
	var trouble string
	switch event := event.(type) {
	case *log.EventEntryAdded:
		if event.Entry.Source == log.EntrySourceNetwork && strings.Contains(event.Entry.Text, "the server responded with a status of") {
			return
		}
		trouble = fmt.Sprintf("%s, %s: %s", event.Entry.Source, event.Entry.Level, event.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		trouble = fmt.Sprintf("the page called console.%s", event.Type)
	case *runtime.EventExceptionThrown:
		trouble = "exception: " + event.ExceptionDetails.Text
	default:
		return
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.troubles = append(tab.troubles, trouble)
}

// Troubles are the errors, warnings and violations of the policy so far.
func (tab *Tab) Troubles() []string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return slices.Clone(tab.troubles)
}

// run takes one step, and answers what it finds.
func run[T any](tab *Tab, what string, step chromedp.Action[T]) T {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	found, err := chromedp.Run(ctx, step)
	if err != nil {
		tab.t.Fatalf("%s: %v", what, err)
	}
	return found
}

// call gives one command of the browser's own protocol.
func call[P, R any](tab *Tab, command cdp.Command[P, R], params P) R {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	result, err := chromedp.Call(ctx, command, params)
	if err != nil {
		tab.t.Fatalf("%s: %v", command.Method, err)
	}
	return result
}

// Go opens an address, whatever status it answers with.
func (tab *Tab) Go(url string) {
	tab.t.Helper()
	run(tab, "open a page", chromedp.Navigate(url))
	tab.Await("main")
}

// Await waits until an element of the page is there to be seen.
func (tab *Tab) Await(selector string) {
	tab.t.Helper()
	run(tab, "wait for "+selector, chromedp.WaitVisible(selector))
}

// AwaitTrue waits until an expression is true on the page.
func (tab *Tab) AwaitTrue(expression string) {
	tab.t.Helper()
	run(tab, "wait for "+expression, chromedp.Poll[bool](expression))
}

// Text is what a person reads of an element.
func (tab *Tab) Text(selector string) string {
	tab.t.Helper()
	return run(tab, "read "+selector, chromedp.Text(selector))
}

// Title is what stands on the tab.
func (tab *Tab) Title() string {
	tab.t.Helper()
	return run(tab, "read the title", chromedp.Title())
}

// Location is the address of the page.
func (tab *Tab) Location() string {
	tab.t.Helper()
	return run(tab, "read the address", chromedp.Location())
}

// Focus puts the focus on an element.
func (tab *Tab) Focus(selector string) {
	tab.t.Helper()
	run(tab, "focus "+selector, chromedp.Focus(selector))
}

// Press presses keys, wherever the focus is.
func (tab *Tab) Press(keys string) {
	tab.t.Helper()
	run(tab, "press keys", chromedp.KeyEvent(keys))
}

// PressAndLoad presses keys that open another page, and waits for that.
func (tab *Tab) PressAndLoad(keys string) {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.KeyEvent(keys)); err != nil {
		tab.t.Fatalf("press keys that open a page: %v", err)
	}
	tab.Await("main")
}

// Eval is the value of an expression, which may be a promise, on a tab's page.
func Eval[T any](tab *Tab, expression string) T {
	tab.t.Helper()
	return run(tab, "evaluate "+expression, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// LetCopy lets pages of an origin write to the clipboard, as browsers with a window
// let the page whose button was pressed.
func (tab *Tab) LetCopy(origin string) {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	_, err := chromedp.CallBrowser(ctx, cdpbrowser.SetPermission, cdpbrowser.SetPermissionParams{
		Permission: &cdpbrowser.PermissionDescriptor{Name: "clipboard-write"}, Setting: cdpbrowser.PermissionSettingGranted,
		Origin: origin, BrowserContextID: chromedp.FromContext(tab.ctx).BrowserContextID,
	})
	if err != nil {
		tab.t.Fatalf("permit the clipboard: %v", err)
	}
}

// Pasted is what the clipboard holds: what a person would paste, for a page of ours
// may not read it. What stands on the page stays.
func (tab *Tab) Pasted() string {
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

// Node is one thing of a page as a screen reader has it.
type Node struct{ Role, Name string }

// Heard is the page as a screen reader has it, in order, without what it passes
// over.
func (tab *Tab) Heard() []Node {
	tab.t.Helper()
	var heard []Node
	for _, node := range call(tab, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if !node.Ignored {
			heard = append(heard, Node{text(node.Role), text(node.Name)})
		}
	}
	return heard
}

func text(value *accessibility.Value) string {
	var s string
	if value != nil {
		_ = json.Unmarshal(value.Value, &s) // what is no text has no name
	}
	return s
}

// Picture is the whole page as a PNG file.
func (tab *Tab) Picture() []byte {
	tab.t.Helper()
	return run(tab, "take a picture", chromedp.FullScreenshot(100))
}

// Overflow is by how many pixels the page is wider than its screen.
func (tab *Tab) Overflow() int {
	tab.t.Helper()
	return Eval[int](tab, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
}

// Faint is what a person with weak eyes can hardly read: texts whose contrast with
// what is behind them is below 4.5, the AA of WCAG 2.2.
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
		if (text === "" || !element.checkVisibility() || element.closest("script, .unseen")) continue;
		const [dark, bright] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
		const contrast = (bright + 0.05) / (dark + 0.05);
		if (contrast < 4.5) found.push(text + ": " + contrast.toFixed(2));
	}
	return found;
})()`
