package localcloud

// RefuseCapacity makes RunTask refuse the next n attempts for want of capacity.
// Repeats of a refused attempt get the same refusal and are not counted.
func (c *Cloud) RefuseCapacity(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusals = n
}

// Throttle makes the next n calls to Groups and Tasks fail without an effect.
func (c *Cloud) Throttle(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.throttle = n
}

// Kill ends a task from outside, as a crash of the machine under it would: when
// Kill returns, its process has no socket and no lease any more. A task that
// does not run yet never will; one that has stopped stays as it is.
func (c *Cloud) Kill(taskID string) {
	c.mu.Lock()
	t := c.tasks[taskID]
	if t == nil || t.over() {
		c.mu.Unlock()
		return
	}
	t.killOnce.Do(func() { close(t.kill) })
	process := t.process
	c.mu.Unlock()
	if process != nil {
		process.die()
	}
}
